"""Names of link types, as the tcpdump.org registry and capture tools write them."""

from __future__ import annotations

from typing import Final

_NAMES: Final = {
    0: "NULL",
    1: "EN10MB",
    6: "IEEE802_5",
    8: "SLIP",
    9: "PPP",
    10: "FDDI",
    12: "RAW",
    14: "RAW",
    50: "PPP_SERIAL",
    51: "PPP_ETHER",
    100: "ATM_RFC1483",
    101: "RAW",
    104: "C_HDLC",
    105: "IEEE802_11",
    106: "ATM_CLIP",
    107: "FRELAY",
    108: "LOOP",
    109: "ENC",
    113: "LINUX_SLL",
    117: "PFLOG",
    119: "PRISM_HEADER",
    122: "IP_OVER_FC",
    123: "SUNATM",
    127: "IEEE802_11_RADIO",
    143: "DOCSIS",
    147: "USER0",
    162: "USER15",
    163: "IEEE802_11_RADIO_AVS",
    166: "PPP_PPPD",
    169: "GPRS_LLC",
    187: "BLUETOOTH_HCI_H4",
    189: "USB_LINUX",
    192: "PPI",
    195: "IEEE802_15_4_WITHFCS",
    204: "PPP_WITH_DIR",
    205: "C_HDLC_WITH_DIR",
    220: "USB_LINUX_MMAPPED",
    226: "IPNET",
    228: "IPV4",
    229: "IPV6",
    239: "NFLOG",
    240: "NETANALYZER",
    241: "NETANALYZER_TRANSPARENT",
    242: "IPOIB",
    249: "USBPCAP",
    253: "NETLINK",
    258: "PKTAP",
    274: "ETHERNET_MPACKET",
    276: "LINUX_SLL2",
    281: "DSA_TAG_BRCM",
    282: "DSA_TAG_BRCM_PREPEND",
    284: "DSA_TAG_DSA",
    285: "DSA_TAG_EDSA",
}


def link_type_name(link_type: int) -> str:
    """EN10MB for 1, and so on; the number where we know no name."""
    return _NAMES.get(link_type, f"LINKTYPE_{link_type}")
