package compute

// signature is a function's name and its parameters, lowered: i is an i32, l an
// i64. Every function returns a status as an i32.
type signature struct{ name, params string }

// module is one import module of the ABI.
type module struct {
	name      string
	functions []signature
}

// abi is everything a Compute guest may import besides WASI: the interface that
// Fastly publishes as witx with Viceroy (compute-at-edge-abi), lowered, and four
// functions that newer SDKs import (Rust from 0.13): cache_override_v3_set and
// has_domain_inspector, has_image_optimizer, has_origin_inspector. A string or a list
// is an address and a length; each result is the address it is written to.
var abi = []module{
	{"fastly_abi", []signature{
		{"init", "l"},
	}},
	{"fastly_acl", []signature{
		{"open", "iii"}, {"lookup", "iiiii"},
	}},
	{"fastly_async_io", []signature{
		{"select", "iiii"}, {"is_ready", "ii"},
	}},
	{"fastly_backend", []signature{
		{"exists", "iii"}, {"is_healthy", "iii"}, {"is_dynamic", "iii"}, {"get_host", "iiiii"}, {"get_override_host", "iiiii"}, {"get_port", "iii"},
		{"get_connect_timeout_ms", "iii"}, {"get_first_byte_timeout_ms", "iii"}, {"get_between_bytes_timeout_ms", "iii"},
		{"get_http_keepalive_time", "iii"}, {"get_tcp_keepalive_enable", "iii"}, {"get_tcp_keepalive_interval", "iii"},
		{"get_tcp_keepalive_probes", "iii"}, {"get_tcp_keepalive_time", "iii"}, {"is_ssl", "iii"}, {"get_ssl_min_version", "iii"},
		{"get_ssl_max_version", "iii"},
	}},
	{"fastly_cache", []signature{
		{"lookup", "iiiii"}, {"insert", "iiiii"}, {"replace", "iiiii"}, {"replace_insert", "iiii"}, {"replace_get_age_ns", "ii"},
		{"replace_get_body", "iiii"}, {"replace_get_hits", "ii"}, {"replace_get_length", "ii"}, {"replace_get_max_age_ns", "ii"},
		{"replace_get_stale_while_revalidate_ns", "ii"}, {"replace_get_state", "ii"}, {"replace_get_user_metadata", "iiii"},
		{"transaction_lookup", "iiiii"}, {"transaction_lookup_async", "iiiii"}, {"cache_busy_handle_wait", "ii"}, {"transaction_insert", "iiii"},
		{"transaction_insert_and_stream_back", "iiiii"}, {"transaction_update", "iii"}, {"transaction_cancel", "i"}, {"close_busy", "i"}, {"close", "i"},
		{"get_state", "ii"}, {"get_user_metadata", "iiii"}, {"get_body", "iiii"}, {"get_length", "ii"}, {"get_max_age_ns", "ii"},
		{"get_stale_while_revalidate_ns", "ii"}, {"get_age_ns", "ii"}, {"get_hits", "ii"},
	}},
	{"fastly_compute_runtime", []signature{
		{"get_vcpu_ms", "i"}, {"get_heap_mib", "i"}, {"has_domain_inspector", "i"}, {"has_image_optimizer", "i"}, {"has_origin_inspector", "i"},
	}},
	{"fastly_config_store", []signature{
		{"open", "iii"}, {"get", "iiiiii"},
	}},
	{"fastly_device_detection", []signature{
		{"lookup", "iiiii"},
	}},
	{"fastly_dictionary", []signature{
		{"open", "iii"}, {"get", "iiiiii"},
	}},
	{"fastly_erl", []signature{
		{"check_rate", "iiiiiiiiiii"}, {"ratecounter_increment", "iiiii"}, {"ratecounter_lookup_rate", "iiiiii"}, {"ratecounter_lookup_count", "iiiiii"},
		{"penaltybox_add", "iiiii"}, {"penaltybox_has", "iiiii"},
	}},
	{"fastly_geo", []signature{
		{"lookup", "iiiii"},
	}},
	{"fastly_http_body", []signature{
		{"append", "ii"}, {"new", "i"}, {"read", "iiii"}, {"write", "iiiii"}, {"close", "i"}, {"abandon", "i"}, {"trailer_append", "iiiii"},
		{"trailer_names_get", "iiiiii"}, {"trailer_value_get", "iiiiii"}, {"trailer_values_get", "iiiiiiii"}, {"known_length", "ii"},
	}},
	{"fastly_http_cache", []signature{
		{"is_request_cacheable", "ii"}, {"get_suggested_cache_key", "iiii"}, {"lookup", "iiii"}, {"transaction_lookup", "iiii"},
		{"transaction_insert", "iiiii"}, {"transaction_insert_and_stream_back", "iiiiii"}, {"transaction_update", "iiii"},
		{"transaction_update_and_return_fresh", "iiiii"}, {"transaction_choose_stale", "i"}, {"transaction_record_not_cacheable", "iii"},
		{"transaction_abandon", "i"}, {"close", "i"}, {"get_suggested_backend_request", "ii"}, {"get_suggested_cache_options", "iiiiii"},
		{"prepare_response_for_storage", "iiii"}, {"get_found_response", "iiii"}, {"get_state", "ii"}, {"get_length", "ii"}, {"get_max_age_ns", "ii"},
		{"get_stale_while_revalidate_ns", "ii"}, {"get_stale_if_error_ns", "ii"}, {"get_age_ns", "ii"}, {"get_hits", "ii"}, {"get_sensitive_data", "ii"},
		{"get_surrogate_keys", "iiii"}, {"get_vary_rule", "iiii"},
	}},
	{"fastly_http_downstream", []signature{
		{"next_request", "iii"}, {"next_request_wait", "iii"}, {"next_request_abandon", "i"}, {"downstream_original_header_names", "iiiiii"},
		{"downstream_original_header_count", "ii"}, {"downstream_client_ip_addr", "iii"}, {"downstream_server_ip_addr", "iii"},
		{"downstream_client_h2_fingerprint", "iiii"}, {"downstream_client_request_id", "iiii"}, {"downstream_client_oh_fingerprint", "iiii"},
		{"downstream_client_ddos_detected", "ii"}, {"downstream_tls_cipher_openssl_name", "iiii"}, {"downstream_tls_protocol", "iiii"},
		{"downstream_tls_client_hello", "iiii"}, {"downstream_tls_raw_client_certificate", "iiii"}, {"downstream_tls_client_cert_verify_result", "ii"},
		{"downstream_tls_client_servername", "iiii"}, {"downstream_tls_ja3_md5", "iii"}, {"downstream_tls_ja4", "iiii"},
		{"downstream_compliance_region", "iiii"}, {"fastly_key_is_valid", "ii"}, {"downstream_bot_analyzed", "ii"}, {"downstream_bot_detected", "ii"},
		{"downstream_bot_name", "iiii"}, {"downstream_bot_category", "iiii"}, {"downstream_bot_category_kind", "ii"}, {"downstream_bot_verified", "ii"},
		{"downstream_resvpnproxy_is_anonymous", "ii"}, {"downstream_resvpnproxy_is_anonymous_vpn", "ii"},
		{"downstream_resvpnproxy_is_hosting_provider", "ii"}, {"downstream_resvpnproxy_is_proxy_over_vpn", "ii"},
		{"downstream_resvpnproxy_is_public_proxy", "ii"}, {"downstream_resvpnproxy_is_relay_proxy", "ii"},
		{"downstream_resvpnproxy_is_residential_proxy", "ii"}, {"downstream_resvpnproxy_is_smart_dns_proxy", "ii"},
		{"downstream_resvpnproxy_is_tor_exit_node", "ii"}, {"downstream_resvpnproxy_is_vpn_datacenter", "ii"},
		{"downstream_resvpnproxy_vpn_service_name", "iiii"}, {"downstream_visits_this_service", "i"}, {"downstream_visits_this_pop", "i"},
	}},
	{"fastly_http_req", []signature{
		{"body_downstream_get", "ii"}, {"cache_override_set", "iiii"}, {"cache_override_v2_set", "iiiiii"}, {"cache_override_v3_set", "iii"}, {"downstream_client_ip_addr", "ii"},
		{"downstream_server_ip_addr", "ii"}, {"downstream_client_h2_fingerprint", "iii"}, {"downstream_client_request_id", "iii"},
		{"downstream_client_oh_fingerprint", "iii"}, {"downstream_client_ddos_detected", "i"}, {"downstream_tls_cipher_openssl_name", "iii"},
		{"downstream_tls_protocol", "iii"}, {"downstream_tls_client_hello", "iii"}, {"downstream_tls_raw_client_certificate", "iii"},
		{"downstream_tls_client_cert_verify_result", "i"}, {"downstream_tls_ja3_md5", "ii"}, {"downstream_tls_ja4", "iii"},
		{"downstream_compliance_region", "iii"}, {"new", "i"}, {"header_names_get", "iiiiii"}, {"original_header_names_get", "iiiii"},
		{"original_header_count", "i"}, {"header_value_get", "iiiiii"}, {"header_values_get", "iiiiiiii"}, {"header_values_set", "iiiii"},
		{"header_insert", "iiiii"}, {"header_append", "iiiii"}, {"header_remove", "iii"}, {"method_get", "iiii"}, {"method_set", "iii"},
		{"uri_get", "iiii"}, {"uri_set", "iii"}, {"version_get", "ii"}, {"version_set", "ii"}, {"send", "iiiiii"}, {"send_v2", "iiiiiii"},
		{"send_v3", "iiiiiii"}, {"send_async", "iiiii"}, {"send_async_v2", "iiiiii"}, {"send_async_streaming", "iiiii"},
		{"pending_req_header_insert", "iiiiii"}, {"pending_req_header_append", "iiiiii"}, {"pending_req_header_remove", "iiii"},
		{"pending_req_poll", "iiii"}, {"pending_req_poll_v2", "iiiii"}, {"pending_req_wait", "iii"}, {"pending_req_wait_v2", "iiii"},
		{"pending_req_select", "iiiii"}, {"pending_req_select_v2", "iiiiii"}, {"fastly_key_is_valid", "i"}, {"close", "i"},
		{"auto_decompress_response_set", "ii"}, {"upgrade_websocket", "ii"}, {"redirect_to_websocket_proxy", "ii"}, {"redirect_to_grip_proxy", "ii"},
		{"redirect_to_websocket_proxy_v2", "iii"}, {"redirect_to_grip_proxy_v2", "iii"}, {"framing_headers_mode_set", "ii"},
		{"register_dynamic_backend", "iiiiii"}, {"inspect", "iiiiiii"}, {"on_behalf_of", "iii"},
	}},
	{"fastly_http_resp", []signature{
		{"new", "i"}, {"header_names_get", "iiiiii"}, {"header_value_get", "iiiiii"}, {"header_values_get", "iiiiiiii"}, {"header_values_set", "iiiii"},
		{"header_insert", "iiiii"}, {"header_append", "iiiii"}, {"header_remove", "iii"}, {"version_get", "ii"}, {"version_set", "ii"},
		{"send_downstream", "iii"}, {"send_downstream_pending", "i"}, {"status_get", "ii"}, {"status_set", "ii"}, {"close", "i"},
		{"framing_headers_mode_set", "ii"}, {"http_keepalive_mode_set", "ii"}, {"get_addr_dest_ip", "iii"}, {"get_addr_dest_port", "ii"},
	}},
	{"fastly_image_optimizer", []signature{
		{"transform_image_optimizer_request", "iiiiiiiii"},
	}},
	{"fastly_kv_store", []signature{
		{"open", "iii"}, {"lookup", "iiiiii"}, {"lookup_wait", "iiiiiii"}, {"lookup_wait_v2", "iiiiiii"}, {"insert", "iiiiiii"}, {"insert_wait", "ii"},
		{"delete", "iiiiii"}, {"delete_wait", "ii"}, {"list", "iiii"}, {"list_wait", "iii"},
	}},
	{"fastly_log", []signature{
		{"endpoint_get", "iii"}, {"write", "iiii"},
	}},
	{"fastly_object_store", []signature{
		{"open", "iii"}, {"lookup", "iiii"}, {"lookup_async", "iiii"}, {"pending_lookup_wait", "ii"}, {"insert", "iiii"}, {"insert_async", "iiiii"},
		{"pending_insert_wait", "i"}, {"delete_async", "iiii"}, {"pending_delete_wait", "i"},
	}},
	{"fastly_purge", []signature{
		{"purge_surrogate_key", "iiii"},
	}},
	{"fastly_secret_store", []signature{
		{"open", "iii"}, {"get", "iiii"}, {"plaintext", "iiii"}, {"from_bytes", "iii"},
	}},
	{"fastly_shielding", []signature{
		{"shield_info", "iiiii"}, {"backend_for_shield", "iiiiiii"},
	}},
	{"fastly_uap", []signature{
		{"parse", "iiiiiiiiiiiiii"},
	}},
}

// alias is the name of a function in module env, as SDKs before 2021 import it.
type alias struct{ name, module, function string }

var aliases = []alias{
	{"xqd_init", "fastly_abi", "init"},
	{"xqd_body_append", "fastly_http_body", "append"},
	{"xqd_body_new", "fastly_http_body", "new"},
	{"xqd_body_read", "fastly_http_body", "read"},
	{"xqd_body_write", "fastly_http_body", "write"},
	{"xqd_body_close", "fastly_http_body", "close"},
	{"xqd_body_close_downstream", "fastly_http_body", "close"},
	{"xqd_log_endpoint_get", "fastly_log", "endpoint_get"},
	{"xqd_log_write", "fastly_log", "write"},
	{"xqd_req_body_downstream_get", "fastly_http_req", "body_downstream_get"},
	{"xqd_req_cache_override_set", "fastly_http_req", "cache_override_set"},
	{"xqd_req_downstream_client_ip_addr", "fastly_http_req", "downstream_client_ip_addr"},
	{"xqd_req_downstream_client_request_id", "fastly_http_req", "downstream_client_request_id"},
	{"xqd_req_downstream_tls_cipher_openssl_name", "fastly_http_req", "downstream_tls_cipher_openssl_name"},
	{"xqd_req_downstream_tls_protocol", "fastly_http_req", "downstream_tls_protocol"},
	{"xqd_req_downstream_tls_client_hello", "fastly_http_req", "downstream_tls_client_hello"},
	{"xqd_req_new", "fastly_http_req", "new"},
	{"xqd_req_header_names_get", "fastly_http_req", "header_names_get"},
	{"xqd_req_original_header_names_get", "fastly_http_req", "original_header_names_get"},
	{"xqd_req_original_header_count", "fastly_http_req", "original_header_count"},
	{"xqd_req_header_value_get", "fastly_http_req", "header_value_get"},
	{"xqd_req_header_values_get", "fastly_http_req", "header_values_get"},
	{"xqd_req_header_values_set", "fastly_http_req", "header_values_set"},
	{"xqd_req_header_insert", "fastly_http_req", "header_insert"},
	{"xqd_req_header_append", "fastly_http_req", "header_append"},
	{"xqd_req_header_remove", "fastly_http_req", "header_remove"},
	{"xqd_req_method_get", "fastly_http_req", "method_get"},
	{"xqd_req_method_set", "fastly_http_req", "method_set"},
	{"xqd_req_uri_get", "fastly_http_req", "uri_get"},
	{"xqd_req_uri_set", "fastly_http_req", "uri_set"},
	{"xqd_req_version_get", "fastly_http_req", "version_get"},
	{"xqd_req_version_set", "fastly_http_req", "version_set"},
	{"xqd_req_send", "fastly_http_req", "send"},
	{"xqd_req_send_async", "fastly_http_req", "send_async"},
	{"xqd_req_send_async_streaming", "fastly_http_req", "send_async_streaming"},
	{"xqd_pending_req_poll", "fastly_http_req", "pending_req_poll"},
	{"xqd_pending_req_wait", "fastly_http_req", "pending_req_wait"},
	{"xqd_pending_req_select", "fastly_http_req", "pending_req_select"},
	{"xqd_resp_new", "fastly_http_resp", "new"},
	{"xqd_resp_header_names_get", "fastly_http_resp", "header_names_get"},
	{"xqd_resp_header_value_get", "fastly_http_resp", "header_value_get"},
	{"xqd_resp_header_values_get", "fastly_http_resp", "header_values_get"},
	{"xqd_resp_header_values_set", "fastly_http_resp", "header_values_set"},
	{"xqd_resp_header_insert", "fastly_http_resp", "header_insert"},
	{"xqd_resp_header_append", "fastly_http_resp", "header_append"},
	{"xqd_resp_header_remove", "fastly_http_resp", "header_remove"},
	{"xqd_resp_version_get", "fastly_http_resp", "version_get"},
	{"xqd_resp_version_set", "fastly_http_resp", "version_set"},
	{"xqd_resp_status_get", "fastly_http_resp", "status_get"},
	{"xqd_resp_status_set", "fastly_http_resp", "status_set"},
}
