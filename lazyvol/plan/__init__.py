"""The waist: regions, recipes, the five verbs, the budget. The one place that builds graphs."""
