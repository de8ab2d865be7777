"""Authorization sessions: requests, claims, transitions, ends, evidence and the repair of broken token chains."""
