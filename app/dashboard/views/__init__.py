"""The views: one router for each, with the templates of its name."""
