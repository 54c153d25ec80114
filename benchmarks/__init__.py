"""Claims about speed and memory, measured as ratios in one run."""
