"""Programs that hold profiles and run their browsers, and those browsers' DevTools."""
