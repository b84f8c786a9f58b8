"""The REST API: takes tasks in, tells what became of them."""
