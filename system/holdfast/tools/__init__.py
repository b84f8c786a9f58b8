"""Tools of the command line: doctor and trace."""
