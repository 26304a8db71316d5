"""Order and parameters of runs, the command line, deployments."""
