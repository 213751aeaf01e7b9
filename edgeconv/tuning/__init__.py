"""Searches the knobs of convolutions by measuring, and keeps what it finds as records."""
