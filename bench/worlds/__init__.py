"""A controlled world: skills with exact accuracies, a new skill whose training answers are damaged in known places, and what masks do there."""
