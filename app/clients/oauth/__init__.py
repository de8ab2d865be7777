"""HTTP of OAuth providers: their endpoints, answers, refusals and limits."""
