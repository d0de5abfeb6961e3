"""The core: torch and the standard library only. Reading order: types, schedule, transform, method, execute, optimizer."""
