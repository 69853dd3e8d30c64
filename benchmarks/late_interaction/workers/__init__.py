"""What runs in the engines' own processes; nothing here imports hiperrag except the engine that is ours."""
