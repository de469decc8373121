"""The commands: the class of each one's options, and what it does in a line."""

COMMANDS = {
    "inspect": ("InspectOptions", "what a checkpoint file holds; nothing in it is executed"),
    "defend": ("DefendOptions", "remove a backdoor with clean images; cleaned checkpoint, masks, report"),
    "detect": ("DetectOptions", "is there a backdoor: verdict, label, recovered trigger, suspicious samples"),
    "calibrate": ("CalibrateOptions", "the threshold of label detection, from models whose truth is known"),
    "evaluate": ("EvaluateOptions", "ACC, and ASR and RA where the trigger is known"),
    "attack": ("AttackOptions", "train a backdoored model, with its trigger artefact and card"),
    "gallery": ("GalleryOptions", "what every attack does to an image, on one page"),
    "compare": ("CompareOptions", "several defenses on several checkpoints: one table, one page"),
    "study": ("StudyOptions", "train backdoored heads on an extractor's features, compare defenses on them"),
    "ablate": ("AblateOptions", "Hölder pruning under every combination of its settings"),
    "sweep": ("SweepOptions", "defenses on thousands of checkpoints, resumable: one table, one page"),
    "simclr": ("SimclrOptions", "train a feature extractor without labels, for heads and for --method hid"),
    "convert": ("ConvertOptions", "PyTorch, safetensors and orbax, one into the other"),
    "cache": ("CacheOptions", "the compiled programs that are kept for later runs: where, how many, how large"),
}

COMPILE_NOTHING = ("inspect", "convert", "cache")
"""Commands to which the cache of compiled programs is of no use."""

LISTINGS = {"attack": "rnp_jax.commands.attack_list:list_attacks"}
"""What ``--list`` prints, whatever else is on the command line: a function by command."""
