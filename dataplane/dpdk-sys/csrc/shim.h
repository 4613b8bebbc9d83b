/* What the bindings are made from: DPDK's headers, the constants that bindgen cannot evaluate, and the shim. */
#ifndef PORTCULLIS_DPDK_SHIM_H
#define PORTCULLIS_DPDK_SHIM_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <rte_dev.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_ring.h>
#include <rte_version.h>

/*
 * Where the fields of a packet buffer are. The fields sit in anonymous structs and unions that differ between versions of
 * DPDK, so that paths to them are no interface; their names are.
 */
enum pc_mbuf_layout {
	PC_MBUF_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	PC_MBUF_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	PC_MBUF_REFCNT = offsetof(struct rte_mbuf, refcnt),
	PC_MBUF_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	PC_MBUF_PORT = offsetof(struct rte_mbuf, port),
	PC_MBUF_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	PC_MBUF_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	PC_MBUF_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	PC_MBUF_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	PC_MBUF_POOL = offsetof(struct rte_mbuf, pool),
	PC_MBUF_NEXT = offsetof(struct rte_mbuf, next),
	PC_MBUF_SHINFO = offsetof(struct rte_mbuf, shinfo),
};

/* The same for the count of packets that share a buffer which belongs to no pool. */
enum pc_shared_info_layout {
	PC_SHINFO_REFCNT = offsetof(struct rte_mbuf_ext_shared_info, refcnt),
};

/* Sizes of the flow items whose first bytes are the header they match; shim.c asserts that they are. */
enum pc_flow_item_size {
	PC_FLOW_ITEM_ETH_SIZE = sizeof(struct rte_flow_item_eth),
	PC_FLOW_ITEM_VLAN_SIZE = sizeof(struct rte_flow_item_vlan),
	PC_FLOW_ITEM_IPV4_SIZE = sizeof(struct rte_flow_item_ipv4),
	PC_FLOW_ITEM_IPV6_SIZE = sizeof(struct rte_flow_item_ipv6),
	PC_FLOW_ITEM_TCP_SIZE = sizeof(struct rte_flow_item_tcp),
	PC_FLOW_ITEM_UDP_SIZE = sizeof(struct rte_flow_item_udp),
	PC_FLOW_ITEM_SCTP_SIZE = sizeof(struct rte_flow_item_sctp),
};

/* Macros that take arguments, evaluated. */
static const uint64_t PC_MBUF_F_INDIRECT = RTE_MBUF_F_INDIRECT;
static const uint64_t PC_MBUF_F_EXTERNAL = RTE_MBUF_F_EXTERNAL;
static const uint64_t PC_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t PC_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t PC_RSS_IP = RTE_ETH_RSS_IP;
static const uint64_t PC_RSS_TCP = RTE_ETH_RSS_TCP;
static const uint64_t PC_RSS_UDP = RTE_ETH_RSS_UDP;
static const uint64_t PC_RSS_SCTP = RTE_ETH_RSS_SCTP;

/* Inline in DPDK, and crossed once per burst. */
uint16_t pc_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t room);
uint16_t pc_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count);
int pc_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **packets, unsigned int count);
uint16_t pc_ring_put(struct rte_ring *ring, struct rte_mbuf **packets, uint16_t count);
uint16_t pc_ring_take(struct rte_ring *ring, struct rte_mbuf **packets, uint16_t room);

/* Inline in DPDK, or a macro, or a struct whose layout differs between versions; none of it is on the way of a packet. */
int pc_errno(void);
struct rte_ring *pc_ring_create(const char *name, unsigned int size);
unsigned int pc_lcore_id(void);
void pc_reset(struct rte_mbuf *packet);
void pc_free(struct rte_mbuf *packet);
void pc_flush_caches(void);
int pc_link(uint16_t port, uint32_t *speed, int *up, int *full_duplex);

#endif
