"""Credentials: storing, handing out, refreshing, importing and re-encrypting tokens."""
