"""``python -m chaos torture``: signals to every process of a `holdfast up`, under load."""
