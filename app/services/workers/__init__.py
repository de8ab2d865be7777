"""The asyncio workers that the lifespan starts."""
