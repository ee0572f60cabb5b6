"""Virtual machines: their records, and (as the daemon learns it) the machines behind them."""
