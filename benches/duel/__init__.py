"""daymend measured side by side with its rivals. See benches/run."""
