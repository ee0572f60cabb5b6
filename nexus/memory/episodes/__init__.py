"""Episodes: what agents learned in a project, to be found again."""
