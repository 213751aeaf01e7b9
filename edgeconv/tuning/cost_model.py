"""Predicts from what was measured how fast a candidate is: gradient-boosted trees (XGBoost)."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

FEWEST = 8  # measurements to learn from
ROUNDS = 80
SLOWEST = 4.0  # times the default: how much slower does not matter
_SETTINGS = {
    "objective": "reg:squarederror",
    "max_depth": 6,
    "eta": 0.15,
    "min_child_weight": 0.2,
    "subsample": 0.9,
    "colsample_bytree": 0.8,
    "nthread": 1,
    "verbosity": 0,
}


@dataclass
class CostModel:
    """Learns the logarithm of the time over the default's, from the tasks of one network together.

    The estimate's own ratio is where it starts from, so with few measurements it ranks about as
    the estimate does.
    """

    seed: int = 0
    _rows: list[np.ndarray] = field(default_factory=list)
    _values: list[float] = field(default_factory=list)
    _booster: object | None = None

    def add(self, rows: np.ndarray, ratios: list[float]) -> None:
        """Measurements: features, and times over the default's."""
        self._rows += list(rows)
        self._values += [float(np.log(min(max(r, 1e-3), SLOWEST))) for r in ratios]
        self._booster = None

    @property
    def measurements(self) -> int:
        """How many there are."""
        return len(self._values)

    def predict(self, rows: np.ndarray) -> np.ndarray:
        """Predicted logarithm of time over the default's; by the estimate while little is known."""
        start = _start(rows)
        if self.measurements < FEWEST or not len(rows):
            return start
        import xgboost  # takes a third of a second

        if self._booster is None:
            known = np.stack(self._rows)
            values = np.array(self._values, np.float32)
            weight = np.exp(-values)  # the fast ones are to be told apart
            data = xgboost.DMatrix(known, values, weight=weight, base_margin=_start(known))
            self._booster = xgboost.train({**_SETTINGS, "seed": self.seed}, data, ROUNDS)
        unknown = xgboost.DMatrix(rows, base_margin=start)
        return np.asarray(self._booster.predict(unknown))  # type: ignore[attr-defined]


def _start(rows: np.ndarray) -> np.ndarray:
    limit = float(np.log(SLOWEST))
    return np.clip(rows[:, 0], -limit / 2, limit).astype(np.float32)
