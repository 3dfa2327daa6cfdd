"""A dataset -> findings, a preview and a page."""
