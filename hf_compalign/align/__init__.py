"""Train a student to keep its teacher's decisions."""
