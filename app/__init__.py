"""GoLogin automation: API tokens for accounts that are signed in inside GoLogin browser profiles."""

__version__ = "0.2.0"
