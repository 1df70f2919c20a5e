"""What must end well, by group and in the words that the project gave it, and the test that holds each.

A test stands with its module in ``tests/``; where one test holds several rows, a row's own case is in brackets.
"""

from __future__ import annotations

_BUNDLES = "faults/test_bundles.py::"
_REFUSED = _BUNDLES + "test_is_refused"
_COMMAND_LINE = "faults/test_command_line.py::test_"
_PYTHON = "faults/test_python.py::test_"
_TOOLS = "faults/test_tools.py::test_"
_CRASHES = "faults/test_crashes.py::test_"
_HOST = "faults/test_host.py::test_"
_LIFETIME = "language_model/test_lifetime.py::test_"

ROWS: dict[str, dict[str, str]] = {
    "Bundles": {
        "empty folder → names the missing file": _BUNDLES + "test_empty_folder_names_the_missing_file",
        "manifest not JSON → refused": f"{_REFUSED}[manifest not JSON]",
        "manifest nested 200,000 deep → refused": f"{_REFUSED}[manifest nested 200,000 deep]",
        "manifest with a duplicate key → refused": f"{_REFUSED}[manifest with a duplicate key]",
        "manifest of an unknown version → refused": f"{_REFUSED}[unknown version]",
        "../ → refused": f"{_REFUSED}[../]",
        "absolute → refused": f"{_REFUSED}[absolute]",
        "a\\..\\b → refused": f"{_REFUSED}[a\\..\\b]",
        "NUL in a name → refused": f"{_REFUSED}[NUL in a name]",
        "symlinked weights → refused": f"{_REFUSED}[symlinked weights]",
        "weights truncated by one byte → named with both sizes": f"{_REFUSED}[weights truncated by one byte]",
        "one bit flipped → named with both hashes": f"{_REFUSED}[one bit flipped]",
        "negative offset → refused": f"{_REFUSED}[negative offset]",
        "huge offset → refused": f"{_REFUSED}[huge offset]",
        "overlapping offsets → refused": f"{_REFUSED}[overlapping offsets]",
        "an operator of a foreign domain → refused": f"{_REFUSED}[an operator of a foreign domain]",
        "a Loop of 2^62 → refused": f"{_REFUSED}[a Loop of 2^62]",
        "a 64 GiB Expand → memory error, process alive": _BUNDLES
        + "test_a_64_gib_expand_is_a_memory_error_and_the_process_lives",
        "vocabulary ≠ logits width → refused": f"{_REFUSED}[vocabulary ≠ logits width]",
        "NaN weights → NumericError, not garbage text": f"{_REFUSED}[NaN weights]",
        "KV inputs missing → named": f"{_REFUSED}[KV inputs missing]",
        "KV inputs of wrong rank → named": f"{_REFUSED}[KV inputs of wrong rank]",
        "a template that reaches for __class__ → refused": f"{_REFUSED}[a template that reaches for __class__]",
        "a template that renders 200 MB → capped": f"{_REFUSED}[a template that renders 200 MB]",
    },
    "Background of bundles": {
        "tokenizer panics arrive as BaseException": _BUNDLES + "test_a_tokenizer_that_panics_is_told_in_one_line",
        "lone surrogates in text": _BUNDLES + "test_a_lone_surrogate_in_a_prompt_is_a_prompt_error",
        "lone surrogates in a manifest": f"{_REFUSED}[manifest with a lone surrogate]",
        "NaN in a manifest": f"{_REFUSED}[manifest with NaN]",
        "external data outside the folder": f"{_REFUSED}[external data outside the folder]",
        "external data that nobody listed": f"{_REFUSED}[external data that the manifest does not list]",
        "Scan": f"{_REFUSED}[a Scan]",
        "a template of more than 64 KiB": f"{_REFUSED}[a template of more than 64 KiB]",
        "a message with a special token's text": _BUNDLES + "test_a_special_token_in_a_message_stays_text",
        "pickles and auto_map": _BUNDLES + "test_a_checkpoint_that_asks_for_code_is_refused",
        "a crash at the first open": _BUNDLES + "test_a_crash_at_the_first_open_is_a_model_error_and_the_process_lives",
    },
    "Command line": {
        "unknown model → 2 with near names": f"{_COMMAND_LINE}unknown_model_ends_with_2_and_near_names",
        "prompt = context + 1 → 2 with both counts, never silently cut": _COMMAND_LINE
        + "prompt_of_context_plus_1_ends_with_2_and_both_counts_never_silently_cut",
        "empty prompt → starts from BOS or says why not": _COMMAND_LINE
        + "empty_prompt_starts_from_bos_or_says_why_not",
        "invalid UTF-8 on stdin → byte offset": f"{_COMMAND_LINE}invalid_utf_8_on_stdin_names_the_byte_offset",
        "| head -1 → quiet": f"{_COMMAND_LINE}a_pipe_into_head_1_is_quiet",
        "Ctrl-C in mid-token → text flushed, 130 within 1 s": _COMMAND_LINE
        + "ctrl_c_in_mid_token_flushes_the_text_and_ends_with_130_within_1_s",
        "--max-memory 10MB → 3 within 2 s, with what is needed": _COMMAND_LINE
        + "max_memory_10mb_ends_with_3_within_2_s_with_what_is_needed",
        "--temperature nan, --top-p 1.5, --top-k -1 → usage error": _COMMAND_LINE
        + "a_value_out_of_range_is_a_usage_error",
        "read-only home → runs": f"{_COMMAND_LINE}read_only_home_runs",
        "path with spaces and emoji → works": f"{_COMMAND_LINE}path_with_spaces_and_emoji_works",
    },
    "Python": {
        "id −1 or ≥ vocabulary → ValueError": f"{_PYTHON}id_out_of_the_vocabulary_is_a_value_error",
        "batch of lengths 1/17/max equals singles": f"{_PYTHON}batch_of_lengths_1_17_max_equals_singles",
        "8 threads equal serial": f"{_PYTHON}8_threads_equal_serial",
        "abandoned generator frees its session": f"{_PYTHON}abandoned_generator_frees_its_session",
        "close() during generate → clean error": f"{_PYTHON}close_during_generate_is_a_clean_error",
        "fork → works or says no": f"{_PYTHON}fork_works_or_says_no",
        'stop "" or 10,000 stops → error': f"{_PYTHON}stops_that_are_none_are_an_error",
        "a stop across tokens cuts exactly": f"{_PYTHON}a_stop_across_tokens_cuts_exactly",
        "emoji and CJK stream without U+FFFD, streamed text = whole text": _PYTHON
        + "emoji_and_cjk_stream_without_u_fffd_and_streamed_text_is_the_whole_text",
        "same seed, same text": f"{_PYTHON}same_seed_same_text_in_any_process",
        "200 load/unload cycles → memory flat": _LIFETIME + "two_hundred_loads_leave_nothing_behind",
    },
    "Tools": {
        "kill -9 at random moments → old bundle intact or none": _CRASHES
        + "kill_9_at_random_moments_leaves_the_old_bundle_intact_or_none",
        "output exists → refuse without --force": f"{_TOOLS}output_exists_is_refused_without_force",
        "disk full → 4, temporary files gone": f"{_CRASHES}disk_full_at_each_write_ends_with_4_temporary_files_gone",
        "a shard missing → named": f"{_TOOLS}a_shard_missing_is_named",
        "a download whose content changed → hash error": _TOOLS
        + "a_download_from_the_hub_whose_content_changed_is_a_hash_error",
        "two converters on one target → lock error": f"{_TOOLS}two_converters_on_one_target_are_a_lock_error",
        "weights over 2 GB → external data": f"{_TOOLS}weights_over_2_gb_lie_in_external_data",
    },
    "Host": {
        "cgroup of 512 MiB → refuse or fit, never killed": _HOST
        + "cgroup_of_512_mib_refuses_or_fits_and_is_never_killed",
        "clock jump → deadlines hold": f"{_HOST}clock_jump_deadlines_hold",
        "ulimit -n 64 → works, or a typed error": f"{_HOST}ulimit_n_works_or_is_a_typed_error",
    },
}
