"""azsession inside other frameworks: one module or package for each, with an extra of the same name."""
