"""The shop: one Django application, and the project around it."""
