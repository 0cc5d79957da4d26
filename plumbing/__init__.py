"""What any trainer needs and no paper describes: settings, stages that survive interruption, records, plots, LoRA."""
