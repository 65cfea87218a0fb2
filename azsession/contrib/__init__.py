"""Integrations of azsession with other frameworks: one module or package for each, with an extra of the same name."""
