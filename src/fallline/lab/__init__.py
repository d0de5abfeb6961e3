"""The laboratory: fair studies, their statistics, and the checks of papers' claims."""
