"""Chaos: a migration is killed at a random moment and finished; plain SQL then says what was lost or came twice."""
