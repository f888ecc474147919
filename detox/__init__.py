"""What the stages of the pipeline share; a module a concept."""
