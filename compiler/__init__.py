"""The compiler: analyses, passes, pipelines and the driver that runs them."""
