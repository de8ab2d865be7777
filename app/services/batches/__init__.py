"""Batches: many authorization sessions of one request, and the pace at which they run."""
