"""Command-line tools: doctor and trace."""
