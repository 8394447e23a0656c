"""Commands that a person runs: `test`, `demo`, `lab`; `fabric` and `scenario` are behind them."""
