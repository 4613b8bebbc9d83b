#include "shim.h"

#include <assert.h>

#define HEADER_FIRST(item) \
	static_assert(offsetof(struct item, hdr) == 0, #item " does not begin with the header it matches")
HEADER_FIRST(rte_flow_item_eth);
HEADER_FIRST(rte_flow_item_vlan);
HEADER_FIRST(rte_flow_item_ipv4);
HEADER_FIRST(rte_flow_item_ipv6);
HEADER_FIRST(rte_flow_item_tcp);
HEADER_FIRST(rte_flow_item_udp);
HEADER_FIRST(rte_flow_item_sctp);

#define FIELD_SIZE(field, bytes) \
	static_assert(sizeof(((struct rte_mbuf *)0)->field) == (bytes), #field " has another width")
FIELD_SIZE(buf_addr, sizeof(void *));
FIELD_SIZE(data_off, 2);
FIELD_SIZE(refcnt, 2);
FIELD_SIZE(nb_segs, 2);
FIELD_SIZE(port, 2);
FIELD_SIZE(ol_flags, 8);
FIELD_SIZE(pkt_len, 4);
FIELD_SIZE(data_len, 2);
FIELD_SIZE(buf_len, 2);
FIELD_SIZE(pool, sizeof(void *));
FIELD_SIZE(next, sizeof(void *));
FIELD_SIZE(shinfo, sizeof(void *));
static_assert(sizeof(((struct rte_mbuf_ext_shared_info *)0)->refcnt) == 2, "refcnt has another width");

uint16_t pc_rx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t room)
{
	return rte_eth_rx_burst(port, queue, packets, room);
}

uint16_t pc_tx_burst(uint16_t port, uint16_t queue, struct rte_mbuf **packets, uint16_t count)
{
	return rte_eth_tx_burst(port, queue, packets, count);
}

int pc_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **packets, unsigned int count)
{
	return rte_pktmbuf_alloc_bulk(pool, packets, count);
}

uint16_t pc_ring_put(struct rte_ring *ring, struct rte_mbuf **packets, uint16_t count)
{
	return rte_ring_sp_enqueue_burst(ring, (void **)packets, count, NULL);
}

uint16_t pc_ring_take(struct rte_ring *ring, struct rte_mbuf **packets, uint16_t room)
{
	return rte_ring_sc_dequeue_burst(ring, (void **)packets, room, NULL);
}

/* Between one thread and another. */
struct rte_ring *pc_ring_create(const char *name, unsigned int size)
{
	return rte_ring_create(name, size, SOCKET_ID_ANY, RING_F_SP_ENQ | RING_F_SC_DEQ);
}

int pc_errno(void)
{
	return rte_errno;
}

unsigned int pc_lcore_id(void)
{
	return rte_lcore_id();
}

void pc_reset(struct rte_mbuf *packet)
{
	rte_pktmbuf_reset(packet);
}

void pc_free(struct rte_mbuf *packet)
{
	rte_pktmbuf_free(packet);
}

static void flush_cache(struct rte_mempool *pool, void *unused)
{
	(void)unused;
	rte_mempool_cache_flush(rte_mempool_default_cache(pool, rte_lcore_id()), pool);
}

/* Gives what the calling thread's caches hold back to all pools. */
void pc_flush_caches(void)
{
	rte_mempool_walk(flush_cache, NULL);
}

int pc_link(uint16_t port, uint32_t *speed, int *up, int *full_duplex)
{
	struct rte_eth_link link = { 0 };
	int status = rte_eth_link_get_nowait(port, &link);

	*speed = link.link_speed;
	*up = link.link_status;
	*full_duplex = link.link_duplex;
	return status;
}
