"""HTTP below the routes: middleware, limits of the protocol, slow clients, rate limits, client addresses."""
