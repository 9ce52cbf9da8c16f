"""The article's own algorithm: image by image, with dense (M, A) tensors.

It is written from the article's text, with the article's names. Misprints listed in specification section 9 are
corrected, and incomplete lines are completed from the specification. Small boxes are not widened. The article does not
contain the loss; the specification's loss is used. M is the padded number of ground truths, A the number of
anchors, C of classes, R of bins.
"""

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss, Stages
from tal_conformance.implementations.protocol import EVERY
from tal_reference import ARTICLE, BatchTargets, Head, Hyperparameters, Predictions, ciou, input_size
from tal_reference.anchors import Anchors
from tal_reference.loss import loss_items


class ArticleAdapter:
    """The article's assigner, and the specification's loss on its assignment."""

    name = "article"
    version = "1"
    dialect = ARTICLE
    exposes_stages = True
    precisions = EVERY

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """Run section 3 of the article (the assigner) image by image."""
        assigner = ArticleAssigner(inputs.hyperparameters)
        images = [
            assigner.assign_image(scores, boxes, inputs.anchors, labels, truths, mask)
            for scores, boxes, labels, truths, mask in zip(
                inputs.scores, inputs.boxes, inputs.labels, inputs.truth_boxes, inputs.truth_mask, strict=True
            )
        ]
        labels, boxes, one_hot, foreground, index = (
            torch.stack(output) for output in zip(*[outputs for outputs, _ in images], strict=True)
        )
        stages = [torch.stack(stage) for stage in zip(*[stages for _, stages in images], strict=True)]
        shown = Stages(*stages) if inputs.truth_boxes.shape[1] else None
        return Assignment(labels, boxes, one_hot, foreground, index, shown)

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """Return the specification's loss on the tensors and the assignment of sections 2 and 3 of the article."""
        size = input_size(feature_maps, head)
        pred_scores, pred_regs = pred_process(feature_maps, head)  # (B, A, C), (B, A, 4R)
        anc_points, stride_scales = make_anchors(feature_maps, head)  # (A, 2), (A, 1)
        pred_bboxes = decode(pred_regs, anc_points, head.reg_max)  # (B, A, 4)
        gt_bboxes, gt_labels, gt_mask = ann_process(
            annotations, len(pred_scores), size
        )  # (B, M, 4), (B, M, 1) twice
        inputs = AssignerInputs(
            anchors=anc_points * stride_scales,
            strides=stride_scales,
            boxes=(stride_scales * pred_bboxes.detach()).to(gt_bboxes),
            scores=torch.sigmoid(pred_scores.detach()),
            truth_boxes=gt_bboxes,
            truth_mask=gt_mask.to(gt_bboxes.dtype),
            labels=gt_labels,
            head=head,
            hyperparameters=hyperparameters,
        )
        assignment = self.assign(inputs)
        predictions = Predictions(pred_regs, pred_scores, Anchors(anc_points, stride_scales), size)
        targets = BatchTargets(assignment.foreground, assignment.boxes, assignment.scores)
        items = loss_items(predictions, targets, head, hyperparameters)  # (3,)
        return Loss(items * len(pred_scores), items.detach(), assignment, inputs)


def pred_process(inputs: tuple[Tensor, ...], head: Head) -> tuple[Tensor, Tensor]:
    """Concatenate all levels and split them into class logits (B, A, C) and side distributions (B, A, 4R)."""
    rows = [
        level.reshape(*level.shape[:2], -1).permute(0, 2, 1) for level in inputs
    ]  # (B, H W, 4R + C) a level
    predictions = torch.cat(rows, dim=1)  # (B, A, 4R + C)
    return predictions[..., 4 * head.reg_max :], predictions[..., : 4 * head.reg_max]


def make_anchors(
    inputs: tuple[Tensor, ...], head: Head, grid_cell_offset: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Return the anchor centres (A, 2) in grid units and the strides (A, 1)."""
    anc_points, strides = [], []
    for level, stride in zip(inputs, head.strides, strict=True):
        in_h, in_w = level.shape[2:]
        sy = torch.arange(in_h).to(level) + grid_cell_offset
        sx = torch.arange(in_w).to(level) + grid_cell_offset
        grid_y, grid_x = torch.meshgrid(sy, sx, indexing="ij")  # (H, W) twice
        anc_points.append(torch.stack((grid_x.flatten(), grid_y.flatten()), dim=1))  # (H W, 2)
        strides.append(level.new_full((in_h * in_w, 1), stride))  # (H W, 1)
    return torch.cat(anc_points), torch.cat(strides)


def decode(pred_regs: Tensor, anc_points: Tensor, reg_max: int) -> Tensor:
    """Return the boxes (B, A, 4), xyxy in grid units, whose four distances are expectations over the bins."""
    if reg_max > 1:
        bins = torch.arange(reg_max).to(pred_regs)  # (R,)
        pred_regs = pred_regs.unflatten(2, (4, reg_max)).softmax(3).mul(bins).sum(3)  # (B, A, 4)
    corners = anc_points - pred_regs[..., :2], anc_points + pred_regs[..., 2:]  # (B, A, 2) twice
    return torch.cat(corners, dim=2)


def ann_process(annotations: Tensor, images: int, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Return boxes, labels and mask of all images, padded with zeros to M, the largest number of ground truths."""
    counts = torch.bincount(
        annotations[:, 0].long(), minlength=images
    )  # (B,); images without ground truths have 0, where the article's max() fails
    padded = annotations.new_zeros(images, int(counts.max()), 5)  # (B, M, 5)
    for image in range(images):
        rows = annotations[annotations[:, 0] == image, 1:]
        padded[image, : len(rows)] = rows
    height, width = size
    x, y, w, h = (padded[..., 1:] * padded.new_tensor((width, height, width, height))).unbind(
        2
    )  # (B, M) each
    gt_bboxes = torch.stack((x - w / 2, y - h / 2, x + w / 2, y + h / 2), dim=2)  # (B, M, 4)
    return gt_bboxes, padded[..., :1], gt_bboxes.sum(2, keepdim=True) > 0


class ArticleAssigner:
    """Section 3 of the article for one image; each method is one step, so that a planted fault can replace it."""

    eps = 1e-9

    def __init__(self, hyperparameters: Hyperparameters) -> None:
        self.topk = hyperparameters.topk
        self.topk2 = hyperparameters.effective_topk2
        self.alpha, self.beta = hyperparameters.alpha, hyperparameters.beta

    def assign_image(
        self, pb_scores: Tensor, pb_bboxes: Tensor, anc_points: Tensor, gt_labels: Tensor, gt_bboxes: Tensor,
        gt_mask: Tensor,
    ) -> tuple[list[Tensor], list[Tensor]]:  # fmt: skip
        """Return the targets of one image as the fields of `Assignment`, and its stages as the fields of `Stages`.

        Args:
            pb_scores: (A, C) predicted scores after the sigmoid.
            pb_bboxes: (A, 4) predicted boxes, xyxy in pixels.
            anc_points: (A, 2) anchor centres in pixels.
            gt_labels: (M, 1) classes.
            gt_bboxes: (M, 4) ground truths, xyxy in pixels.
            gt_mask: (M, 1) mask, zero on padding.
        """
        if not len(
            gt_labels
        ):  # TAL-EMPTY-1: the article's code does not define this case, the specification does
            none = torch.zeros(len(anc_points), dtype=torch.long, device=anc_points.device)
            scores = torch.zeros_like(pb_scores, dtype=torch.promote_types(pb_scores.dtype, gt_bboxes.dtype))
            return [none, gt_bboxes.new_zeros(len(none), 4), scores, none.bool(), none], []
        in_gts_mask = self.get_in_gts_mask(gt_bboxes, anc_points) & gt_mask.bool()  # (M, A)
        align_metrics, overlaps = self.refine_select(pb_scores, pb_bboxes, gt_labels, gt_bboxes, in_gts_mask)
        selected = self.select_topk_candidates(align_metrics, self.topk) & in_gts_mask  # (M, A)
        target_gt_idx, fg_mask, pos_mask = self.filter_repeat_assign_candidates(
            selected, overlaps, align_metrics
        )
        labels, boxes, one_hot = self.get_train_targets(
            gt_labels, gt_bboxes, target_gt_idx, fg_mask, pb_scores
        )
        weights = self.normalise(align_metrics, overlaps, pos_mask, selected)  # (A,)
        outputs = [labels, boxes, one_hot * weights[:, None], fg_mask, target_gt_idx]
        return outputs, [in_gts_mask, overlaps, align_metrics, selected, pos_mask]

    def get_in_gts_mask(self, gt_bboxes: Tensor, anc_points: Tensor) -> Tensor:
        """Return the mask (M, A) of the anchors inside each box: step 1."""
        to_left_top = anc_points[None] - gt_bboxes[:, None, :2]  # (M, A, 2)
        to_right_bottom = gt_bboxes[:, None, 2:] - anc_points[None]  # (M, A, 2)
        return torch.cat((to_left_top, to_right_bottom), dim=2).amin(2) > self.eps

    def refine_select(
        self, pb_scores: Tensor, pb_bboxes: Tensor, gt_labels: Tensor, gt_bboxes: Tensor, in_gts_mask: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the metrics t = s^alpha u^beta and the overlaps u, both (M, A) and zero outside the mask: step 2."""
        cious = self.overlap(gt_bboxes[:, None], pb_bboxes[None]).clamp(min=0).where(in_gts_mask, 0)  # (M, A)
        scores = pb_scores[:, gt_labels[:, 0].long()].T.where(in_gts_mask, 0)  # (M, A)
        return self.align(scores, cious), cious

    def overlap(self, gt_bboxes: Tensor, pb_bboxes: Tensor) -> Tensor:
        """Return the CIoU of pairs of a ground truth and a predicted box."""
        return ciou(gt_bboxes, pb_bboxes)

    def align(self, scores: Tensor, overlaps: Tensor) -> Tensor:
        """Return the alignment metric t = s^alpha u^beta of class scores s and overlaps u."""
        return scores.pow(self.alpha) * overlaps.pow(self.beta)

    def select_topk_candidates(self, align_metrics: Tensor, topk: int) -> Tensor:
        """Return the mask (M, A) of the k best anchors of each ground truth, selected one after the other: step 2."""
        topk_idx = align_metrics.topk(topk, dim=1).indices  # (M, k)
        topk_mask = torch.zeros_like(align_metrics, dtype=torch.bool)  # (M, A)
        every_gt = torch.arange(len(align_metrics), device=align_metrics.device)
        for top_i in topk_idx.T:
            topk_mask[every_gt, top_i] = True
        return topk_mask

    def filter_repeat_assign_candidates(
        self, pos_mask: Tensor, overlaps: Tensor, align_metrics: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Resolve anchors that several ground truths selected: step 3.

        Returns:
            Index of each anchor's ground truth (A,), foreground (A,) and mask of the positives (M, A).
        """
        claims = pos_mask.sum(0)  # (A,)
        if claims.max() > 1:
            is_max_overlap = torch.zeros_like(pos_mask)  # (M, A)
            is_max_overlap[overlaps.argmax(0), torch.arange(len(claims), device=claims.device)] = True
            pos_mask = torch.where(claims > 1, is_max_overlap, pos_mask)
        if self.topk2 is not None:
            pos_mask = pos_mask & self.select_topk_candidates(align_metrics * pos_mask, self.topk2)
        return pos_mask.int().argmax(0), pos_mask.any(0), pos_mask

    def get_train_targets(
        self, gt_labels: Tensor, gt_bboxes: Tensor, target_gt_idx: Tensor, fg_mask: Tensor, pb_scores: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return label (A,), box (A, 4) and one-hot class (A, C) of each anchor's ground truth: step 4."""
        target_labels = gt_labels[target_gt_idx, 0].long()  # (A,)
        classes = torch.arange(pb_scores.shape[1], device=pb_scores.device)  # (C,)
        one_hot = (target_labels[:, None] == classes) & fg_mask[:, None]  # (A, C)
        return target_labels, gt_bboxes[target_gt_idx], one_hot.to(pb_scores.dtype)

    def normalise(
        self, align_metrics: Tensor, overlaps: Tensor, pos_mask: Tensor, selected: Tensor
    ) -> Tensor:
        """Return weights (A,): metrics scaled so that a ground truth's largest weight equals its largest overlap.

        `selected` is not read; a planted fault uses it in place of `pos_mask`.
        """
        align_metrics, overlaps = align_metrics * pos_mask, overlaps * pos_mask  # (M, A) twice
        gt_max_metrics, gt_max_overlaps = align_metrics.amax(1), overlaps.amax(1)  # (M,) twice
        scale = gt_max_overlaps / (gt_max_metrics + self.eps)  # (M,)
        return (align_metrics * scale[:, None]).amax(0)
