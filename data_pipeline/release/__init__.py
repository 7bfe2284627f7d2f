"""What leaves the machine: dataset card, Hugging Face hub, upload to a URL. Imported by `commands`;
imports `report` and below.
"""
