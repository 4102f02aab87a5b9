"""The simulated Earth: landscape, weather, growth and sensors as stated laws, written as cubes with truth."""
