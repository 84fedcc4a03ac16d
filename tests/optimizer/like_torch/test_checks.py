"""What torch's own tests ask of each of its optimizers, asked of normc's, recipe by recipe.

torch ships the inputs of its tests (torch.testing._internal.common_optimizers), not the tests (test/test_optim.py,
TestOptimRenewed). Both are written anew, for a weight, a bias and a loss like theirs: the inputs' package needs
expecttest, and importing it freezes the flags of torch.backends for the whole process. torch's `optests` are about ops.
`CHECKS` has torch's tests by name: the test in this folder that asks the same, or why it doesn't apply.
"""

from __future__ import annotations

import re
from pathlib import Path

FLAG = "normc has no such flag: how an update runs is in its generated code, and tests/backends holds it to float64"

# torch's tests by name: the test of this folder that asks the same, or the reason why it doesn't apply.
CHECKS: dict[str, str] = {
    "test_errors": "test_inputs_that_torch_refuses_are_refused",
    "test_forloop_goes_right_direction": "test_it_goes_down",
    "test_forloop_goes_right_direction_multigpu": "an update is generated for one device",
    "test_forloop_goes_right_direction_with_lrsched": "test_it_goes_down_under_torchs_schedulers",
    "test_param_group_with_lrscheduler_goes_right_direction": "test_it_goes_down_under_torchs_schedulers",
    "test_tensor_lr": "test_a_tensor_lr_is_a_float_lr",
    "test_tensor_lr_num_dim": "test_a_tensor_lr_is_a_float_lr",
    "test_param_groups_lr": "test_groups_have_an_lr_each",
    "test_param_groups_weight_decay": "test_groups_have_a_decay_each",
    "test_complex": "test_complex_parameters_are_refused",
    "test_complex_2d": "test_complex_parameters_are_refused",
    "test_rosenbrock_sparse": "sparse gradients are refused when the optimizer is made (test_refusals.py)",
    "test_foreach_matches_forloop": FLAG,
    "test_foreach_large_tensor": FLAG,
    "test_peak_memory_foreach": FLAG,
    "test_fused_matches_forloop": FLAG,
    "test_fused_large_tensor": FLAG,
    "test_fused_error_on_params_on_meta": FLAG,
    "test_fused_does_not_step_if_foundinf": "test_step.py asks it of a GradScaler, which leaves such steps out",
    "test_grad_scaling_autocast_fused_optimizers": FLAG,
    "test_defaults_changed_to_foreach": FLAG,
    "test_cudagraphs_use_after_free": "a step on a GPU makes its own graph (tests/update/fused)",
    "test_differentiable": "a step is not part of autograd's graph: the flag is refused (test_refusals.py)",
    "test_set_default_dtype_works_with_foreach": "test_the_default_dtype_does_not_matter",
    "test_mixed_device_dtype": "test_dtypes_may_be_mixed",
    "test_step_is_noop_when_params_have_no_grad": "test_without_gradients_nothing_moves",
    "test_step_is_noop_for_zero_grads": "test_gradients_of_zeros_move_nothing",
    "test_optimizer_can_be_printed": "test_it_can_be_printed",
    "test_state_dict_deterministic": "test_a_state_dict_goes_on_alike_also_out_of_a_file",
    "test_can_load_older_state_dict": "test_earlier.py has checkpoints of normc's earlier versions",
    "test_can_load_from_to_named_state_dict": "test_a_nameless_state_dict_is_refused",
    "test_save_load_equality_with_weights_only": "test_a_state_dict_goes_on_alike_also_out_of_a_file",
    "test_load_nontensor_step": "test_counts_of_steps_may_be_numbers",
    "test_state_dict_with_cuda_params": "needs a GPU; states go to their parameter's device (test_loading.py)",
    "test_deepcopy_copies_all_public_attrs": "test_copies_and_pickles_have_all_public_attributes",
    "test_step_post_hook": "test_hooks_of_steps",
    "test_step_pre_hook": "test_hooks_of_steps",
    "test_step_all_hooks": "test_hooks_of_steps",
    "test_state_dict_post_hook": "test_hooks_of_state_dicts",
    "test_state_dict_pre_hook": "test_hooks_of_state_dicts",
    "test_state_dict_pre_post_hook": "test_hooks_of_state_dicts",
    "test_load_state_dict_post_hook": "test_hooks_of_loading",
    "test_load_state_dict_pre_hook_and_prepend": "test_hooks_of_loading",
    "test_load_state_dict_pre_post_hook": "test_hooks_of_loading",
    "test_non_empty_state": "test_a_step_makes_state",
    "test_optim_infos_do_not_specify_global_cliquey_kwargs": "it checks torch's own table of inputs",
    "test_no_grad": "test_a_closure_is_called_once_and_its_loss_comes_back",
    "test_closure": "test_a_closure_is_called_once_and_its_loss_comes_back",
    "test_add_param_group": "test_groups_cannot_be_added",
}


def test_each_check_of_torch_has_its_answer() -> None:
    texts = [file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py")]
    here = {name for text in texts for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
    for name, answer in CHECKS.items():
        assert name.startswith("test_")
        assert answer in here if answer.startswith("test_") and " " not in answer else len(answer) > 20, name
