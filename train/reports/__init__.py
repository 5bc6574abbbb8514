"""Pages, figures and comparisons of finished runs."""
