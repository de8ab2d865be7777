"""OAuth providers and apps: provider files, states of apps, rate limits."""
