"""The commands: the class of each one's options, and what it does in a line."""

COMMANDS = {
    "check": ("CheckOptions", "the whole way: inspect, detect, defend, prove; one page, and an exit status for CI"),
    "inspect": ("InspectOptions", "list what a file holds and recognise its architecture; execute nothing"),
    "defend": ("DefendOptions", "remove a backdoor with clean images; write a cleaned checkpoint, masks and a report"),
    "train": ("TrainOptions", "train a clean network on a training set that nobody trusts"),
    "detect": ("DetectOptions", "find the target label, the trigger and the suspicious samples; give a verdict"),
    "calibrate": ("CalibrateOptions", "fit verdict thresholds on models labelled clean or backdoored"),
    "evaluate": ("EvaluateOptions", "measure ACC, and ASR and RA if the trigger is known"),
    "reactivate": ("ReactivateOptions", "try to bring a removed backdoor back: is it really gone?"),
    "attack": ("AttackOptions", "train a backdoored model, with its trigger artefact and card"),
    "gallery": ("GalleryOptions", "show on one page what every attack does to an image"),
    "compare": ("CompareOptions", "run several methods on several checkpoints: one table, one page"),
    "study": ("StudyOptions", "train backdoored heads on an extractor's features, and compare methods on them"),
    "ablate": ("AblateOptions", "vary Hölder pruning: exponent, radii, norm, scope, threshold rule"),
    "sweep": ("SweepOptions", "defend thousands of checkpoints, resumable: one table, one page"),
    "simclr": ("SimclrOptions", "train features without labels, for heads and for --method hid"),
    "convert": ("ConvertOptions", "convert between PyTorch, safetensors and orbax"),
    "cache": ("CacheOptions", "show the compiled programs that are kept for later runs: where, how many, how large"),
}

COMPILE_NOTHING = ("inspect", "convert", "cache")
"""Commands to which the cache of compiled programs is of no use."""

HAVE_NO_LOG = ("inspect", "cache")
"""Commands that print what they were asked for and nothing else."""

HOLD_NO_DEVICE = ("sweep", "cache")
"""Commands whose own process leaves the devices to others."""

LISTINGS = {"attack": "rnp_jax.commands.attack_list:list_attacks"}
"""What ``--list`` prints, whatever else is on the command line: a function by command."""
