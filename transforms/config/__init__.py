"""What a run is told: options and policy, checked before any worker starts."""
