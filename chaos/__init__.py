"""The adversary: it breaks the system and judges what it did."""
