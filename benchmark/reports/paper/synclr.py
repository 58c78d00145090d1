"""SynCLR, the successor of StableRep by the same group: published comparisons with StableRep, and its ablations.

Its transfer results (Table 6) are in Table 2, its segmentation results (Table 7) in Table 4.
"""

from benchmark.reports.published.table import PaperTable, of_table

TABLE = PaperTable(
    title="SynCLR: Tables 2 to 5 and 10 of arXiv 2312.17742",
    caption="Linear probe on ImageNet, its mean over nine small datasets, and ADE20K segmentation.",
    numbers=of_table("synclr-2", "synclr-3", "synclr-4", "synclr-5", "synclr-10"),
    experiment_globs=(),
    targets=(),
    notes=(
        "Tables 2 to 4 compare StableRep and SynCLR, Table 5 learning objectives on one synthetic dataset, Table 10 "
        "SynCLR and CLIP on the same captions. The rows of different tables are not one comparison.",
        "Mean of nine: Aircraft, Cars, DTD, Flowers, Pets, SUN397, Caltech-101, Food-101, VOC 2007.",
        "Not stated in our sources: the training data of Tables 3 and 5, and the names of the modules (a) and (b) of "
        "Table 4.",
    ),
)
