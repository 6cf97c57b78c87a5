"""Programs that run inside probe containers. They use the standard library only and import nothing of Referee."""
