"""Publishing a dataset: dataset card, Hugging Face Hub, upload to a URL. Imported by `commands`;
imports `report` and below.
"""
