"""What every process needs to run: supervised loops, health, signals."""
