"""What repeats allow to say: means with intervals, effects, theory beside measurement, time to accuracy."""
