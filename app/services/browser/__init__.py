"""The consent in the browser: the driver's process, the page's rules and scripts, the one tab, its evidence."""
