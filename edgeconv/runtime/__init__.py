"""Loads compiled networks, runs them, measures them, and profiles them by layer."""

from edgeconv.runtime.latency import Latency
from edgeconv.runtime.model import BoundCall, Model
from edgeconv.runtime.profile import Profile, ProfileRow

__all__ = ["BoundCall", "Latency", "Model", "Profile", "ProfileRow"]
